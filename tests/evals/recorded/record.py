"""Scores the completions of ``lm_eval.jsonl`` by lm-evaluation-harness and writes its scores into that file.

Run by an interpreter that has lm-eval 0.4.13 (``pip install --no-deps lm-eval numpy scipy langdetect immutabledict nltk
six``; no torch is needed). The data of NLTK's sentence splitter is not fetched: the kind that counts sentences is left
out, and words are split without splitting sentences first.

    PYTHON tests/evals/recorded/record.py
"""

import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import nltk

FILE = Path(__file__).with_name("lm_eval.jsonl")
TASKS = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0]) / "tasks"


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, TASKS / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


nltk.data.find = lambda *args, **kwargs: None
nltk.word_tokenize = lambda text: nltk.NLTKWordTokenizer().tokenize(text)
for package in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):  # their own __init__ needs torch
    sys.modules[package] = types.ModuleType(package)
for part in ("instructions_util", "instructions", "instructions_registry"):
    module = load(f"ifeval/{part}.py", f"lm_eval.tasks.ifeval.{part}")
    setattr(sys.modules["lm_eval.tasks.ifeval"], part, module)
ifeval = load("ifeval/utils.py", "lm_eval.tasks.ifeval.utils")
drop = load("drop/utils.py", "drop_utils")
pro = re.search(r"regex_pattern: '(.*)'", (TASKS / "mmlu_pro/_default_template_yaml").read_text())[1]


def scores(case):
    if case["suite"] == "ifeval":
        document = {"key": 0, "prompt": "", **case["row"]}
        found = ifeval.process_results(document, [case["completion"]])
        return [float(found["prompt_level_strict_acc"]), float(found["prompt_level_loose_acc"])]
    if case["suite"] == "drop":
        found = drop.process_results({"answers": [tuple(spans) for spans in case["references"]]}, [case["completion"]])
        return [float(found["f1"]), float(found["em"])]
    picked = re.findall(pro, case["completion"])
    return [float(bool(picked) and picked[0] == case["answer"])]


if __name__ == "__main__":
    cases = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    with FILE.open("w", encoding="utf-8") as file:
        for case in cases:
            file.write(json.dumps({**case, "scores": scores(case)}, ensure_ascii=False) + "\n")
