"""The research desk: what a person does with policies and runs."""
