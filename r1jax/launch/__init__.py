"""Starting a run on a machine or many: compilation cache, host memory, the processes of a pod, start scripts."""
