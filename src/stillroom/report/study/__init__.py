"""One self-contained page from a study's folder, and the pages of its runs: see :mod:`stillroom.report.study.page`."""
