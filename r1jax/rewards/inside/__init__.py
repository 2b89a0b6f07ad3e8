"""Programs that run inside the sandbox: each is one file, sent as text, that imports the standard library only."""
