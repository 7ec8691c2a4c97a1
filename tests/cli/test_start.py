"""A command starts fast: torch's compiler waits until it is asked for, and then is all there."""

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> list[str]:
    """The lines that a fresh Python prints, whose compiler was put off."""
    start = "from zoo.cli.later import defer_compiler\ndefer_compiler()\n"
    command = [sys.executable, "-W", "error", "-c", start + textwrap.dedent(code)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.slow
def test_libraries_are_imported_without_torchs_compiler():
    found = run("""
        import sys
        import timm
        import torchvision.transforms.v2
        print('sympy' in sys.modules, 'torch._dynamo.eval_frame' in sys.modules)
    """)
    assert found == ["False False"]


@pytest.mark.slow
def test_the_compiler_comes_when_something_compiles():
    found = run("""
        import torch, torchvision

        graphs = []
        def backend(graph, inputs):
            graphs.append(graph.code)
            return graph

        @torch.compiler.disable
        def apart(x):
            "What it does."
            return x + 1

        @torch.compiler.disable()
        def aside(x):
            return x - 5

        print(apart(torch.zeros(1)).item(), apart.__doc__)
        function = torch.compile(lambda x: aside(apart(x * 2) * 3), backend=backend)
        print(function(torch.ones(1)).item())
        print(len(graphs) > 1, [sign for sign in '*+-' if any(f' {sign} ' in g for g in graphs)])
        print(torch._dynamo.eval_frame.__name__)
        boxes = torch.tensor([[0, 0, 0, 3, 3]], dtype=torch.float32)
        print(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 1).item())
    """)
    assert found == ["1.0 What it does.", "4.0", "True ['*']", "torch._dynamo.eval_frame", "1.0"]


@pytest.mark.slow
def test_modules_of_the_compiler_can_be_imported_by_name():
    found = run("""
        import torch._dynamo.config
        from torch._dynamo import reset
        reset()
        print(torch._dynamo.config.__name__, torch._dynamo.utils.__name__)
    """)
    assert found == ["torch._dynamo.config torch._dynamo.utils"]
