"""``kdcmae cpp``: where the C++ header is, and what a CMake project needs to build with it."""

from __future__ import annotations

import shlex

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.terminal import say

__all__ = ["command"]


@click.command(name="cpp", cls=KdcmaeCommand)
@click.option("--cmake-dir", is_flag=True, help="Print the folder of the CMake package and nothing else.")
@click.option("--cmake-args", is_flag=True, help="Print what cmake needs to know, as its arguments, and nothing else.")
@json_option
def command(cmake_dir: bool, cmake_args: bool, as_json: bool) -> None:
    """Say how a C++17 app runs engines: the folders that CMake needs, and a project that builds.

    The header reads engine folders of the targets openvino and onnx.

    \b
    kdcmae cpp
    kdcmae cpp --cmake-dir
    kdcmae cpp --cmake-args
    """
    from kdcmae import cpp

    folders = {
        "kdcmae_DIR": cpp.cmake_dir(),
        "OpenVINO_DIR": cpp.openvino_cmake_dir(),
        "KDCMAE_ONNXRUNTIME_LIBRARY": cpp.onnxruntime_library(),
    }
    if as_json:
        print_json({name: None if folder is None else str(folder) for name, folder in folders.items()})
        return
    arguments = [shlex.quote(f"-D{name}={folder}") for name, folder in folders.items() if folder is not None]
    if cmake_dir:
        say(str(folders["kdcmae_DIR"]))
    elif cmake_args:
        say(" ".join(arguments))
    else:
        settings = " \\\n    ".join(arguments)
        say(
            "In CMakeLists.txt:\n\n"
            "    find_package(kdcmae REQUIRED)\n"
            "    target_link_libraries(app PRIVATE kdcmae::openvino)  # or kdcmae::onnxruntime, or both\n\n"
            f"Configure with:\n\n    cmake -B build \\\n    {settings}\n\n"
            "It needs nlohmann-json and zlib (Debian: nlohmann-json3-dev zlib1g-dev)."
        )
