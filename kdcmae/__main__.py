"""``python -m kdcmae``: the ``kdcmae`` command."""

from kdcmae.cli import main

if __name__ == "__main__":
    main()
