import ml_dtypes
import numpy as np
import pytest

from r1jax.hf.fp8 import dequantise, is_quantised, quantisation_faults, quantise, scale_shape


def test_which_tensors_the_released_checkpoint_stores_in_fp8():
    layer = "model.layers.3."
    yes = [
        "self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj",
        "self_attn.o_proj", "mlp.gate_proj", "mlp.experts.255.down_proj", "mlp.shared_experts.up_proj",
    ]  # fmt: skip
    no = [
        "input_layernorm", "self_attn.q_a_layernorm", "mlp.gate", "eh_proj", "enorm", "embed_tokens", "shared_head.head",
    ]  # fmt: skip
    assert all(is_quantised(f"{layer}{name}.weight") for name in yes)
    assert not any(is_quantised(f"{layer}{name}.weight") for name in no)
    others = ["mlp.gate.e_score_correction_bias", "self_attn.q_proj.bias"]
    assert not any(is_quantised(layer + name) for name in others)
    assert not is_quantised("lm_head.weight") and not is_quantised("model.embed_tokens.weight")


def test_shape_of_the_scales():
    assert scale_shape((576, 7168)) == (5, 56)  # kv_a_proj_with_mqa, spec A.8.1
    assert scale_shape((2048, 7168)) == (16, 56)
    assert scale_shape((1, 129)) == (1, 2)


def test_a_block_of_literal_numbers():
    weight = np.zeros((130, 129), np.float32)
    weight[0, 0], weight[5, 7], weight[127, 127] = 896.0, -3.0, 2.0**-12
    weight[0, 128], weight[129, 0] = -0.5, 7.0
    stored, scales = quantise(weight, name="w")
    assert stored.dtype == ml_dtypes.float8_e4m3fn and scales.dtype == np.float32
    # 448 is the largest e4m3; a block of zeros has scale 1
    np.testing.assert_array_equal(scales, np.float32([[2.0, 0.5 / 448], [7.0 / 448, 1.0]]))
    assert float(stored[0, 0]) == 448.0 and float(stored[5, 7]) == -1.5 and float(stored[127, 127]) == 0.0
    assert float(stored[0, 128]) == -448.0 and float(stored[129, 0]) == 448.0
    values = dequantise(stored, scales)
    assert values[0, 0] == 896.0 and values[5, 7] == -3.0 and values[129, 0] == 7.0 and values[129, 128] == 0.0


def test_stored_times_scale_by_block():
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(200, 300)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.5, 2.0, size=(2, 3)).astype(np.float32)
    expected = np.array(
        [[np.float32(stored[r, c]) * scales[r // 128, c // 128] for c in range(300)] for r in range(200)], np.float32
    )
    np.testing.assert_array_equal(dequantise(stored, scales), expected)
    part = (slice(100, 190), slice(120, 260))
    np.testing.assert_array_equal(dequantise(stored[part], scales, part), expected[part])


def test_error_of_a_round_trip():
    weight = np.random.default_rng(1).normal(size=(300, 200)).astype(np.float32)
    stored, scales = quantise(weight, name="w")
    values = dequantise(stored, scales)
    block = np.repeat(np.repeat(scales, 128, 0), 128, 1)[:300, :200]
    # half a step: 2^-4 of the value in the normal range, 2^-10 of the scale below it
    assert (np.abs(values - weight) <= np.maximum(np.abs(weight) * 2**-4, block * 2**-10) * 1.001).all()
    again, _ = quantise(values, name="w")
    np.testing.assert_array_equal(again.view(np.uint8), stored.view(np.uint8))


def test_power_of_two_scales():
    scales = np.array([[0.25, 4.0]], np.float32)
    stored = np.full((3, 256), 1.5, ml_dtypes.float8_e4m3fn)
    small = scales.astype(ml_dtypes.float8_e8m0fnu)
    np.testing.assert_array_equal(dequantise(stored, small), dequantise(stored, scales))
    assert dequantise(stored, small)[2, [0, 200]].tolist() == [0.375, 6.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value):
    weight = np.zeros((4, 4), np.float32)
    weight[1, 2] = value
    with pytest.raises(ValueError, match=r"layers\.0\.up_proj holds a value that is not finite"):
        quantise(weight, name="layers.0.up_proj")


def test_quantisation_config():
    released = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    }  # fmt: skip
    assert quantisation_faults(released) == quantisation_faults(released | {"scale_fmt": "ue8m0"}) == []
    assert quantisation_faults(None) == []
    (fault, *others) = quantisation_faults({"quant_method": "gptq", "bits": 4})
    assert "quantization_config.quant_method='gptq' is not supported; known: ('fp8',)" in fault and others
    (fault,) = quantisation_faults(released | {"weight_block_size": [64, 64]})
    assert "weight_block_size=[64, 64]" in fault
