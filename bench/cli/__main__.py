"""``python -m kdcmae.bench.cli``."""

from kdcmae.bench.cli import main

main()
