"""x"""

IMAGE_CASES: list = []


def try_images(case, folder): ...
