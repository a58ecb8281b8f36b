"""Lower a finetuned model to an engine folder and prove what was shipped.

``lowering`` puts the precision into the torch module, ``export`` writes it as ONNX, ``targets`` turn that graph
into engines, ``parity`` compares every stage with the reference model, ``package`` writes the folder, and
``build`` is the whole pipeline.
"""
