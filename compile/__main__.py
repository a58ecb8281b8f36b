"""``python -m kdcmae.compile``: the ``kdcmae-compile`` command."""

from kdcmae.compile.cli import main

if __name__ == "__main__":
    main()
