from __future__ import annotations

import pytest

from kdcmae.errors import EngineError, MissingDependencyError, cause, one_line

OPENVINO = (
    "Exception from src/inference/src/cpp/core.cpp:117:\nException from src/inference/src/dev/plugin.cpp:112:\n"
    "Check '!m_device_map.empty()' failed at src/plugins/intel_gpu/src/plugin/plugin.cpp:559:\n"
    "[GPU] Can't get a property as no supported devices found.\n[GPU] Please check the documentation.\n\n\n"
)
CAUSE = "[GPU] Can't get a property as no supported devices found. [GPU] Please check the documentation."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (OPENVINO, CAUSE),
        (
            "Error(s) in loading state_dict:\n\tMissing key(s): a.\n",
            "Error(s) in loading state_dict: Missing key(s): a.",
        ),
        ("first cause\n\nsecond  line", "first cause; second line"),
        ("one", "one"),
        ("\n", ""),
    ],
)
def test_a_message_of_many_lines_becomes_one_that_keeps_the_cause(text, line):
    assert one_line(text) == line


def test_our_errors_are_one_line_also_where_they_quote_a_library():
    assert str(EngineError(f"OpenVINO cannot load x.xml: {OPENVINO}")) == f"OpenVINO cannot load x.xml: {CAUSE}"
    assert "\n" not in str(MissingDependencyError("openvino", install="kdcmae[openvino]"))


def test_the_cause_of_a_long_error_is_its_beginning_and_its_end():
    text = cause(RuntimeError(f"first\n{'x ' * 2000}\nlast"))
    assert text.startswith("first; x")
    assert text.endswith("last")
    assert len(text) < 700
    assert cause(MemoryError()) == "MemoryError"
