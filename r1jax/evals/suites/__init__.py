"""The benchmarks of the paper as data: where they come from, how they are asked, read and scored."""
