"""What can be configured: a frozen dataclass for each thing, its defaults, and the one reader of config files."""
