"""Map the top-level folders to one installed name.

``kernels/``, ``compile/`` and ``bench/`` are installed as ``kdcmae.kernels``, ``kdcmae.compile`` and
``kdcmae.bench``, so site-packages gets the single name ``kdcmae``. Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

FOLDERS = ("kernels", "compile", "bench")

packages = find_packages(include=["kdcmae", "kdcmae.*"])
for folder in FOLDERS:
    packages.append(f"kdcmae.{folder}")
    packages += [f"kdcmae.{folder}.{name}" for name in find_packages(folder)]

setup(
    packages=packages,
    package_dir={"kdcmae": "kdcmae", **{f"kdcmae.{folder}": folder for folder in FOLDERS}},
)
