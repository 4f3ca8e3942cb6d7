"""Who does a study's jobs: processes of this machine, or a Ray cluster."""
