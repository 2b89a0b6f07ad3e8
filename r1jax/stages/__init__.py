"""The stages of R1, one module each: `build(config, mesh)` and `main(config, workdir)`."""
