"""Starting a run on a machine: compilation cache."""
