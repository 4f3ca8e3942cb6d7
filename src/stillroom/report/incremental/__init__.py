"""What is shown of classes that came in tasks: on a run's page, and on a study's."""
