"""`python -m kdguard.runtime.gpu_check`."""

import sys

if __name__ == "__main__":
    try:
        from kdguard.runtime.gpu_check.command import main
    except ModuleNotFoundError as error:
        said = f"gpu-check needs the Python package {error.name}; install it, nothing else is needed"
        print(f"error: {said}", file=sys.stderr)
        sys.exit(3)
    sys.exit(main())
