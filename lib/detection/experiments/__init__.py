"""The paper's experiments as files: what each needs, running them, and reporting them beside the published numbers."""
