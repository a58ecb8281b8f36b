"""Lower a model to an engine folder and prove what was shipped.

``lowering`` puts the precision into the torch module, ``export`` writes it as ONNX, ``targets`` turn program or graph
into engines, ``cases`` are what every stage is run on, ``parity`` compares every stage with the reference model,
``gates`` compares the precision claimed with the precision executed, ``report`` and ``package`` write the folder, and
``build`` is the whole pipeline. ``cache`` finds engines built before, ``diagnose`` the first layer that goes wrong;
``inspection`` and ``comparison`` look into engines that are there.

The same model, settings and versions give the same engine file, golden data and labels, byte for byte, where the
library builds deterministically: OpenVINO, ONNX and TensorRT for RTX do. ``manifest.json`` and ``report.html`` say when
and in how many seconds an engine was built, so they differ.
"""
