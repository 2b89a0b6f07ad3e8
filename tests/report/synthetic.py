"""Makes work directories as the stages write them, without running a stage."""

import json
from pathlib import Path

import numpy as np

QUESTIONS = ["27 + 45 = ?", "8 + 64 = ?", "93 + 19 = ?", "50 + 36 = ?"]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_rl_stage(
    path: Path, *, seed: int = 0, updates: int = 60, done: bool = True, learning_rate: float = 3e-4
) -> Path:
    """An RL stage of `updates` updates with every metric of the contract, evaluations and completions."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    config = {
        "stage": "rl",
        "seed": seed,
        "num_updates": 60,
        "optimizer": {"learning_rate": learning_rate, "warmup_steps": 5},
    }
    config["rewards"] = [{"function": "r1jax.rewards.accuracy:accuracy_reward", "weight": 1.0}]
    (path / "config.json").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps({"versions": {"jax": "0.10.2"}, "devices": ["cpu:0"]}))
    rows = []
    for step in range(1, updates + 1):
        skill = 0.2 + 0.7 * (1 - np.exp(-step / 20))
        noise = lambda scale: float(rng.normal(0, scale))  # noqa: E731
        length = 20 + 18 * skill + noise(0.5)
        rows.append(
            {
                "step": step,
                "time": 3.1 * step,
                "reward": skill + 0.9 + noise(0.03),
                "reward_std": 0.45 - 0.3 * skill + noise(0.01),
                "rewards/accuracy/mean": skill + noise(0.03),
                "rewards/accuracy/std": 0.4,
                "rewards/format/mean": min(1.0, 0.9 + 0.1 * skill),
                "frac_reward_zero_std": 0.1 + 0.5 * skill + noise(0.03),
                "completions/mean_length": length,
                "completions/min_length": length - 12,
                "completions/max_length": length + 25,
                "completions/clipped_ratio": max(0.0, 0.05 * (1 - skill) + noise(0.005)),
                "kl": 0.02 * skill + abs(noise(0.001)),
                "entropy": 0.5 - 0.3 * skill + noise(0.01),
                "clip_ratio/low_mean": 0.0,
                "clip_ratio/high_mean": abs(noise(0.001)),
                "clip_ratio/region_mean": abs(noise(0.001)),
                "sampling/sampling_logp_difference/mean": 2e-7 + abs(noise(1e-8)),
                "sampling/sampling_logp_difference/max": 5e-6,
                "loss": noise(0.01),
                "grad_norm": 0.3 + abs(noise(0.05)),
                "learning_rate": learning_rate * min(1, step / 5),
                "reflection/per_1k_tokens": 3 + 14 * skill + noise(0.8),
                "reflection/per_completion": 0.1 + 0.6 * skill,
                "language/chinese_share": 0.12 + 0.03 * skill,
                "language/mixed_share": 0.2,
                "moe/load_max_over_mean": 1.8 - 0.5 * skill,
                "moe/load/moe_00": 1.8 - 0.5 * skill,
                "moe/load/moe_01": 1.4 - 0.3 * skill,
                "time/generate": 1.2 + noise(0.05),
                "time/rewards": 0.1,
                "time/logprobs": 0.4,
                "time/update": 1.1,
                "time/step": 3.0,
                "tokens_per_second/generate": 9000 + noise(200),
                "tokens_per_second/train": 7000 + noise(200),
                "my_new_metric": step,
            }
        )
        if step % 15 == 0 or step == 1:
            rows.append(evaluation_row(step, round(float(skill), 3)))
    write_lines(path / "metrics.jsonl", rows)
    for step in (1, updates):
        write_lines(path / "completions" / f"update_{step:06d}.jsonl", completion_rows(step, "train", late=step > 1))
        write_lines(path / "completions" / f"heldout_{step:06d}.jsonl", completion_rows(step, "heldout", late=step > 1))
    before = {"pass@1": 0.231, "pass@1_low": 0.2, "pass@1_high": 0.26, "cons@16": 0.34, "mean_length": 23.5}
    after = {"pass@1": 0.872, "pass@1_low": 0.85, "pass@1_high": 0.89, "cons@16": 0.94, "mean_length": 36.25}
    summary = {"before": before, "after": after, "updates": updates, "wall_seconds": 372.0, "seed": seed}
    if done:
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "DONE").touch()
    return path


def evaluation_row(step: int, score: float) -> dict:
    row = {
        "step": step,
        "eval/mean_length": 20 + 18 * score,
        "eval/format": 0.9 + 0.1 * score,
        "eval/pass@16": min(1.0, score + 0.2),
    }
    for name, value in (("pass@1", score), ("cons@16", min(1.0, score + 0.06))):
        row |= {f"eval/{name}": value, f"eval/{name}_low": value - 0.04, f"eval/{name}_high": min(1.0, value + 0.04)}
    return row


def evaluated_rows(scores: list[float]) -> list[dict]:
    """Rows of an RL stage of ten updates an evaluation, as they are written: full ones at both ends, short ones between."""
    rows = [full_row(0, scores[0])]
    rows += [short_row(10 * index, score) for index, score in enumerate(scores[1:-1], start=1)]
    return [*rows, full_row(10 * (len(scores) - 1), scores[-1])]


def full_row(step: int, score: float) -> dict:
    return {"step": step, "eval/pass@1": score, "eval/cons@16": score + 0.01, "eval/pass@16": score + 0.02}


def short_row(step: int, score: float) -> dict:
    votes = {"eval/cons@4": score + 0.01, "eval/pass@4": score + 0.03}
    return {"step": step, "eval/pass@1": score, "time/eval": 1.0} | votes


def completion_rows(step: int, split: str, *, late: bool) -> list[dict]:
    """Two samples for each of four problems; training problems differ from update to update."""
    rows = []
    for index, question in enumerate(QUESTIONS):
        asked = question if split == "heldout" else f"{question} (update {step})"
        answer = str(sum(int(part) for part in question.split() if part.isdigit()))
        for sample in range(2):
            right = late or (index + sample) % 3 == 0
            thought = (
                f"7 plus 5 is 12, carry 1 … 进一. {'Wait, let me check: the tens. 等等 again.' if late else 'so.'}"
            )
            text = f"<think> {thought} </think> <answer> {answer if right else '61'} </answer>"
            rows.append(
                {
                    "step": step,
                    "split": split,
                    "problem": {"task": "pair_sum", "answer": answer},
                    "prompt": asked,
                    "completion": text,
                    "num_tokens": len(text) // 3,
                    "stop_reason": "stop",
                    "rewards": {"accuracy": float(right), "format": 1.0},
                    "reward": float(right) + 1.0,
                    "advantage": 0.7 if right else -0.7,
                    "answer": answer if right else "61",
                    "correct": float(right),
                }
            )
    return rows


def make_pretrain_stage(path: Path, *, updates: int = 50) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"stage": "supervised", "num_updates": updates}))
    rows = [
        {
            "step": step,
            "time": 0.2 * step,
            "loss": 4 / (1 + step / 10),
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "tokens_per_second/train": 8000.0,
        }
        for step in range(1, updates + 1)
    ]
    write_lines(path / "metrics.jsonl", rows)
    (path / "DONE").touch()
    return path


def make_workdir(path: Path, **rl) -> Path:
    """A pipeline's work directory: pretrain, then rl."""
    make_pretrain_stage(path / "pretrain")
    make_rl_stage(path / "rl", **rl)
    return path
