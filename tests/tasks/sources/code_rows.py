"""Rows of programming problems of our own, in the published schemas."""

import base64
import json
import pickle
import zlib

LIVECODEBENCH = {
    "question_title": "Sum",
    "question_content": "Print the sum of two numbers.",
    "platform": "atcoder",
    "question_id": "own_a",
    "contest_id": "own",
    "contest_date": "2024-09-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "5 5\n", "output": "10\n", "testtype": "stdin"}]),
    "metadata": "{}",
}
FUNCTIONAL = {
    **LIVECODEBENCH,
    "platform": "leetcode",
    "starter_code": "class Solution:\n    def add(self, a: List[int], b: int) -> List[int]:\n        ",
    "public_test_cases": json.dumps([{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]),
    "private_test_cases": base64.b64encode(
        zlib.compress(pickle.dumps(json.dumps([{"input": "[]\n0", "output": "[]", "testtype": "functional"}])))
    ).decode(),
    "metadata": json.dumps({"func_name": "add"}),
}
CODEFORCES = {
    "id": "1/A",
    "title": "Own problem",
    "description": "Print any number above n.",
    "input_format": "A number n.",
    "output_format": "A number.",
    "interaction_format": None,
    "note": None,
    "examples": [{"input": "1", "output": "2"}],
    "editorial": "Add one.",
    "rating": 800,
    "time_limit": 1.5,
    "memory_limit": 256.0,
    "official_tests": [{"input": "1", "output": "2"}, {"input": "9", "output": "10"}],
    "official_tests_complete": True,
    "input_mode": "stdio",
    "generated_checker": (
        "import sys\n"
        "def main():\n"
        "    given, right, got = (open(path).read() for path in sys.argv[1:4])\n"
        "    print(1 if int(got) > int(given) and right else 0)\n"
        "    sys.exit(0)\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    ),
    "executable": True,
}
