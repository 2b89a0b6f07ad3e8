"""A config's implementations reach the kernels, and say nothing of which model it is."""

import dataclasses
from typing import get_args

import jax
import numpy as np
import pytest

from r1jax.hf.config import write_config
from r1jax.kernels import flash_attention, grouped_matmul
from r1jax.models import config as model_config
from r1jax.models.transformer import make_model
from r1jax.sharding import make_mesh
from tests.tiny import GQA, V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {"gqa": dataclasses.replace(GQA, num_layers=1), "v3": dataclasses.replace(V3, num_layers=2)}
RING = dataclasses.replace(SMALL["v3"], expert_parallel="ring")


def hidden_of(config, **implementation):
    model = make_model(dataclasses.replace(config, **implementation))
    tokens, positions, segments = padded([[5, 40, 17, 3], [7, 41, 13, 9]])

    def hidden(params, buffers):
        return model.hidden(params, buffers, tokens, positions_BT=positions, segments_BT=segments)[0]

    return hidden, shaken(model)


def test_the_names_are_those_of_the_kernels():
    kinds = {
        model_config.AttentionImplementation: flash_attention.IMPLEMENTATIONS,
        model_config.ExpertImplementation: grouped_matmul.IMPLEMENTATIONS,
    }
    for names, implementations in kinds.items():
        assert set(get_args(names)) == {"auto", *implementations}


@pytest.mark.parametrize(
    ("name", "implementation", "primitive"),
    [
        ("gqa", {"attention_implementation": "xla"}, "scan"),
        ("v3", {"attention_implementation": "xla"}, "scan"),
        ("v3", {"expert_implementation": "ragged_dot"}, "ragged_dot"),
    ],
)
def test_the_implementation_that_is_named_computes_the_same(name, implementation, primitive):
    texts, results = [], []
    for named in ({}, implementation):
        hidden, trees = hidden_of(SMALL[name], **named)
        texts.append(str(jax.make_jaxpr(hidden)(*trees)))
        results.append(np.asarray(jax.jit(hidden)(*trees)))
    assert texts[1].count(primitive) > texts[0].count(primitive)
    np.testing.assert_allclose(results[1], results[0], atol=2e-5)


@pytest.mark.parametrize(
    ("config", "implementation", "message"),
    [
        (SMALL["gqa"], {"attention_implementation": "cudnn"}, "flash_attention: implementation 'cudnn' needs an NVIDIA GPU"),
        (SMALL["v3"], {"attention_implementation": "cudnn"}, "flash_attention: implementation 'cudnn' needs an NVIDIA GPU"),
        (SMALL["v3"], {"attention_implementation": "pallas_tpu"}, "flash_attention: .*'pallas_tpu' needs a TPU"),
        (SMALL["v3"], {"expert_implementation": "tokamax"}, "expert_ffn: implementation 'tokamax' needs an NVIDIA GPU"),
        (RING, {"expert_implementation": "tokamax"}, "expert_ffn: implementation 'tokamax' needs an NVIDIA GPU"),
    ],
)  # fmt: skip
def test_one_that_cannot_run_here_is_an_error_that_names_it(config, implementation, message):
    hidden, trees = hidden_of(config, **implementation)
    with jax.set_mesh(make_mesh({"expert": 2, "data": 4})), pytest.raises(ValueError, match=message):
        jax.eval_shape(hidden, *trees)


def test_a_folder_does_not_hold_them():
    named = dataclasses.replace(V3, attention_implementation="xla", expert_implementation="reference")
    assert write_config(named, dtype="float32") == write_config(V3, dtype="float32")
