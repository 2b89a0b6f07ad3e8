"""The stages of R1, one module each: `check(spec, previews)` and `main(spec, workdir)`."""
