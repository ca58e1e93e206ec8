"""`python -m topmast_cluster.images [--push REGISTRY]`: builds the images and prints their names."""

import argparse
import sys

from topmast_cluster.errors import ClusterError
from topmast_cluster.images.build import ensure_images, push_images
from topmast_cluster.progress import Progress


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m topmast_cluster.images", description=__doc__)
    parser.add_argument("--push", metavar="REGISTRY", help="push them there, e.g. registry.example.org/team")
    options = parser.parse_args()
    progress = Progress()
    try:
        images = ensure_images(progress)
        if options.push:
            push_images(images, options.push.rstrip("/"), progress)
    except ClusterError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    for image in images.values():
        print(f"{image.reference}  {image.stored.size_bytes / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
