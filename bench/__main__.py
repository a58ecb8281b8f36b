"""``python -m kdcmae.bench``: the ``kdcmae-bench`` command."""

from kdcmae.bench.cli import main

if __name__ == "__main__":
    main()
