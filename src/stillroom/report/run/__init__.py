"""The page of a finished run: ``data`` reads the folder, ``words`` compares runs, ``page`` puts it together."""
