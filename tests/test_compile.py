"""`torch.compile` takes the whole model as one graph: with `fullgraph=True`, any break would be an error."""

import pytest
import torch

import tiny

# what the sixteen-bit winners and the maxima are computed by stays outside of the graph, as operators of its own
COMPILERS = ["eager", "aot_eager"]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert"])
def test_the_whole_model_is_one_graph_forward(kind, compiler):
    model = tiny.model(kind, seed=1)
    torch.compiler.reset()
    compiled = torch.compile(model, backend=compiler, fullgraph=True)
    with torch.no_grad():
        for texts in (tiny.TEXTS[:4], tiny.TEXTS[4:6]):  # of other sizes the second time
            batch = tiny.batch(texts)
            output = compiled(**batch)
            expected = model(**batch)
            for name in ("embeddings", "pivot_logits", "source_weights"):
                torch.testing.assert_close(output[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert"])
@pytest.mark.parametrize("echo_source", ["pivot", "encoder"])
def test_the_whole_model_is_one_graph_forward_and_backward(kind, compiler, echo_source):
    found = []
    batch = tiny.batch(tiny.TEXTS[:4])
    for compiled in (False, True):
        model = tiny.model(kind, seed=1, echo_source=echo_source)
        torch.compiler.reset()
        forward = torch.compile(model, backend=compiler, fullgraph=True) if compiled else model
        labels = torch.ones(4, len(tiny.TERMS))
        output = forward(**batch, labels=labels)
        (output.loss + output.embeddings.square().sum()).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_loop_over_layers_is_the_only_python_left_in_an_explanation():
    torch.compiler.reset()
    model = tiny.model("xlm-roberta")
    found = torch._dynamo.explain(model)(**tiny.batch(tiny.TEXTS[:2]))
    assert found.graph_break_count == 0, found.break_reasons
    assert found.graph_count == 1
