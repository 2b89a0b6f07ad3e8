"""Problem sets in local files: reading rows, and one mapping from published fields to a problem for each data set."""
