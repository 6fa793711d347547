import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from safetensors.numpy import save_file

from gossamer.engines import graph, narrowing

B, T, D, H = "batch", "length", 8, 2


class Net:
    """An ONNX graph put together by hand, shapes and all."""

    def __init__(self):
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": 20, "com.microsoft": 1}, name="net")
        self.chance = np.random.default_rng(0)

    def input(self, name, shape):
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        self.graph.inputs.append(value)
        return value

    def weight(self, *size):
        return self.constant(self.chance.standard_normal(size).astype(np.float32))

    def constant(self, array):
        name = f"c{len(self.graph.initializers)}"
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
        value.shape, value.dtype = ir.Shape(np.shape(array)), ir.DataType.from_numpy(np.asarray(array).dtype)
        self.graph.register_initializer(value)
        return value

    def __call__(self, op, *inputs, shape, domain="", **attributes):
        node = ir.node(op, inputs, attributes=attributes, domain=domain)
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].name = f"v{len(self.graph)}"
        self.graph.append(node)
        return node.outputs[0]

    def model(self, out):
        out.name = "out"
        self.graph.outputs.append(out)
        return ir.Model(self.graph, ir_version=10)


def attention(net, x):
    """One layer of post-norm attention and feed-forward over x (B, T, D)."""
    heads, wide = [B, T, H, D // H], [B, H, T, D // H]
    split, merge = net.constant(np.array([-1, 6, H, D // H])), net.constant(np.array([-1, 6, D]))

    def linear(v, n):
        y = net("MatMul", v, net.weight(v.shape[-1], n), shape=[B, T, n])
        return net("Add", y, net.weight(n), shape=[B, T, n])

    q, k, v = (net("Reshape", linear(x, D), split, shape=heads) for _ in range(3))
    q = net("Transpose", q, perm=[0, 2, 1, 3], shape=wide)
    k = net("Transpose", k, perm=[0, 2, 3, 1], shape=[B, H, D // H, T])
    v = net("Transpose", v, perm=[0, 2, 1, 3], shape=wide)
    scores = net("Softmax", net("MatMul", q, k, shape=[B, H, T, T]), axis=-1, shape=[B, H, T, T])
    back = net("Transpose", net("MatMul", scores, v, shape=wide), perm=[0, 2, 1, 3], shape=heads)
    x = net("Add", linear(net("Reshape", back, merge, shape=[B, T, D]), D), x, shape=[B, T, D])
    x = net("LayerNormalization", x, net.weight(D), net.weight(D), axis=-1, shape=[B, T, D])
    up = net("Relu", linear(x, 3 * D), shape=[B, T, 3 * D])
    x = net("Add", linear(up, D), x, shape=[B, T, D])
    return net("LayerNormalization", x, net.weight(D), net.weight(D), axis=-1, shape=[B, T, D])


def answer(model, x):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(["out"], {"x": x})[0]


@pytest.mark.parametrize("token", [0, 3])
def test_one_token_is_all_that_the_last_layer_computes(token):
    net = Net()
    x = attention(net, attention(net, net.input("x", [B, T, D])))
    model = net.model(net("Gather", x, net.constant(np.array(token)), axis=1, shape=[B, D]))
    given = net.chance.standard_normal((3, 6, D)).astype(np.float32)
    before, nodes = answer(model, given), len(model.graph)
    narrowed = narrowing.narrow(model)
    assert narrowed == 20, "all of a layer but its keys and values"
    assert np.allclose(answer(model, given), before, atol=1e-5)
    assert len(model.graph) == nodes + 1, "the layer's input is cut once, for q and for the residual"


def test_a_token_that_is_not_all_leaves_the_graph():
    net = Net()
    x = attention(net, net.input("x", [B, T, D]))
    first = net("Gather", x, net.constant(np.array(0)), axis=1, shape=[B, D])
    mean = net("ReduceMean", x, net.constant(np.array([1])), keepdims=0, shape=[B, D])
    model = net.model(net("Add", first, mean, shape=[B, D]))
    assert narrowing.narrow(model) == 0


def test_attention_becomes_one_operator():
    net = Net()
    model = net.model(attention(net, attention(net, net.input("x", [B, T, D]))))
    given = net.chance.standard_normal((3, 6, D)).astype(np.float32)
    before, nodes = answer(model, given), len(model.graph)
    assert graph.fuse_attention(model) == 2
    assert np.allclose(answer(model, given), before, atol=1e-5)
    assert (
        len(of(model, "Attention")) == 2 and len(model.graph) == nodes - 2 * 10 and model.graph.opset_imports[""] == 23
    )
    assert graph.fuse_attention(model) == 0


def test_attention_stays_spelled_out_where_somebody_looks_at_the_probabilities():
    net = Net()
    x = attention(net, net.input("x", [B, T, D]))
    [probabilities] = [node.outputs[0] for node in net.graph if node.op_type == "Softmax"]
    seen = net("ReduceSum", probabilities, net.constant(np.array([1, 2])), keepdims=0, shape=[B, T])
    model = net.model(
        net("Add", x, net("Unsqueeze", seen, net.constant(np.array([2])), shape=[B, T, 1]), shape=[B, T, D])
    )
    assert graph.fuse_attention(model) == 0 and model.graph.opset_imports[""] == 20


def of(model, kind):
    return [node for node in model.graph if node.op_type == kind]


def spoil(model, kind, **attributes):
    """Other attributes for the first node of a kind."""
    first = of(model, kind)[0]
    for name, value in attributes.items():
        first.attributes[name] = ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrInt64s(name, value)


@pytest.mark.parametrize(
    "change",
    [
        lambda net, model: spoil(model, "Softmax", axis=2),
        lambda net, model: spoil(model, "Transpose", perm=[0, 1, 2, 3]),
        lambda net, model: reshaped(model, -1, [B, "other", D]),
        lambda net, model: reshaped(model, -1, ["all", D]),
        lambda net, model: reshaped(model, 0, ["windows", 3, H, D // H]),
        lambda net, model: model.graph.outputs.append(of(model, "Reshape")[-1].outputs[0]),
        lambda net, model: scored(model, "Mul", net.constant(np.ones((1, H, 1, 1), np.float32))),
        lambda net, model: scored(model, "Mul", net.constant(np.float32(-1))),
        lambda net, model: scored(model, "Add", net.constant(np.zeros((1, 6), np.float32))),
        lambda net, model: scored(model, "Add", net.constant(np.zeros((3, 1, 1, 6), np.float32))),
        lambda net, model: scored(model, "Add", net.constant(np.float32(1))),
    ],
)
def test_attention_stays_spelled_out_where_it_is_another(change):
    net = Net()
    model = net.model(attention(net, net.input("x", [B, T, D])))
    change(net, model)
    nodes = len(model.graph)
    assert graph.fuse_attention(model) == 0 and len(model.graph) == nodes


def reshaped(model, which, shape):
    of(model, "Reshape")[which].outputs[0].shape = ir.Shape(shape)


def scored(model, op, other):
    """Something is done to the scores before the softmax."""
    [softmax] = of(model, "Softmax")
    node = ir.node(op, [softmax.inputs[0], other])
    node.outputs[0].shape, node.outputs[0].type = softmax.inputs[0].shape, softmax.inputs[0].type
    model.graph.insert_before(softmax, node)
    softmax.replace_input_with(0, node.outputs[0])


def test_a_scale_and_a_mask_go_into_the_operator():
    net = Net()
    x = net.input("x", [B, T, D])
    mask = net(
        "Unsqueeze",
        net("MatMul", x, net("Transpose", x, perm=[0, 2, 1], shape=[B, D, T]), shape=[B, T, T]),
        net.constant(np.array([1])),
        shape=[B, 1, T, T],
    )
    model = net.model(attention(net, x))
    scored(model, "Mul", net.constant(np.float32(0.25)))
    scored(model, "Add", mask)
    given = net.chance.standard_normal((3, 6, D)).astype(np.float32)
    before = answer(model, given)
    assert graph.fuse_attention(model) == 1 and len(of(model, "Attention")[0].inputs) == 4
    assert np.allclose(answer(model, given), before, atol=1e-5)


def test_weights_refer_to_the_bytes_in_safetensors(tmp_path):
    net = Net()
    x = net.input("x", [B, D])
    y = net("MatMul", x, net.weight(D, 5), shape=[B, 5])
    y = net("MatMul", y, net.weight(5, 40), shape=[B, 40])
    model = net.model(net("Add", y, net.weight(40), shape=[B, 40]))
    given = net.chance.standard_normal((3, D)).astype(np.float32)
    before = answer(model, given)
    first, second, bias = (value.const_value.numpy() for value in net.graph.initializers.values())
    tensors = {"odd": np.zeros(3, np.int8), "first": first, "second": np.ascontiguousarray(second.T)}
    save_file(tensors, tmp_path / "model.safetensors")
    shared, own = graph.share(model, tmp_path)
    assert (shared, own) == (first.nbytes + second.nbytes, bias.nbytes)
    ir.save(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 1500
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert np.array_equal(session.run(["out"], {"x": given})[0], before), "the second one is turned around at loading"


@pytest.mark.parametrize("turned", (False, True))
@pytest.mark.parametrize("rows", (1, 2, 5, 64))
@pytest.mark.parametrize("inputs", (1, 2, 7, 33, 96, 385))
def test_products_that_fit_are_exact_with_quick_kernels_and_others_are_told_apart(inputs, rows, turned):
    chance = np.random.default_rng(inputs)
    first = chance.integers(1, 128, ((inputs + 1) // 2, 40))
    signs = chance.choice([-1, 1], (len(first), 1, 40))
    codes = (np.stack([first, graph.PAIR - first], 1) * signs).reshape(-1, 40)[:inputs].astype(np.int8)

    def product(codes):
        net = Net()
        x = net.input("x", ["rows", inputs])
        x.type = ir.TensorType(ir.DataType.UINT8)
        weight = net.constant(np.ascontiguousarray(codes.T) if turned else codes)
        weight = net("Transpose", weight, perm=[1, 0], shape=codes.shape) if turned else weight
        weight.type = ir.TensorType(ir.DataType.INT8)
        one, zero = net.constant(np.array(1, np.float32)), net.constant(np.array(128, np.uint8))
        given = (x, weight, one, one, zero)
        return net.model(net("MatMulIntegerToFloat", *given, domain="com.microsoft", shape=["rows", 40]))

    model = product(codes)
    assert graph.fits(model) and not graph.fits(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10))
    for given in (np.full((rows, inputs), 255), np.zeros((rows, inputs)), chance.integers(0, 256, (rows, inputs))):
        assert np.array_equal(answer(model, given.astype(np.uint8)), (given - 128.0) @ codes)
    for first in range(0, inputs - 1, max(2, (inputs - 2) // 2 * 2)):  # of the first pair, and of the last whole one
        for sign in (1, -1):
            beyond = codes.copy()
            beyond[first : first + 2, 7] = sign * 127, sign * 2
            assert not graph.fits(product(beyond))


def test_products_fit_only_where_that_can_be_seen():
    def made(weigh, op="MatMulIntegerToFloat"):
        net = Net()
        x = net.input("x", ["rows", 4])
        weight = weigh(net, net.constant(np.ones((4, 4), np.int8)))
        one, zero = net.constant(np.array(1, np.float32)), net.constant(np.array(128, np.uint8))
        return net.model(net(op, x, weight, one, one, zero, domain="com.microsoft", shape=["rows", 4]))

    def bits(net, weight):
        low = net("BitwiseAnd", weight, weight, shape=[4, 4])
        return net("Cast", net("Sub", low, weight, shape=[4, 4]), shape=[4, 4], to=int(ir.DataType.INT8))

    assert graph.fits(made(lambda net, weight: weight)) and graph.fits(made(bits))
    assert not graph.fits(made(lambda net, weight: net("Identity", weight, shape=[4, 4])))
    assert not graph.fits(made(lambda net, weight: net("Cast", weight, shape=[4, 4], to=3)))
    assert not graph.fits(made(lambda net, weight: weight, "MatMulInteger"))
    model = made(lambda net, weight: weight)
    for codes in (1, 127):
        branch = made(lambda net, _, codes=codes: net.constant(np.full((4, 4), codes, np.int8))).graph
        model.graph.append(ir.node("If", [model.graph.outputs[0]], attributes={"then_branch": branch}))
        assert graph.fits(model) == (codes == 1), "branches count"


@pytest.fixture
def way():
    """What doubles ids and hands on what it keeps of them, then adds ones in the shape of the ids, all in one graph."""
    net = Net()
    ids, _, kept = (net.input(name, [B, T]) for name in ("ids", "segments", "kept"))
    twice = net("Mul", ids, net.constant(np.array(2, np.float32)), shape=[B, T])
    size = net("Shape", ids, shape=[2])
    size.type = ir.TensorType(ir.DataType.INT64)
    ones = net("Expand", net.constant(np.array(1, np.float32)), size, shape=[B, T])
    model = net.model(net("Add", net("Add", twice, ones, shape=[B, T]), net("Neg", kept, shape=[B, T]), shape=[B, T]))
    same = net("Identity", kept, shape=[B, T])
    twice.name, same.name = "0.next.x", "0.next.kept"
    model.graph.outputs[:0] = [twice, same]
    return model


def test_a_way_is_cut_into_stretches_that_need_no_more_than_they_are_given(way):
    first = graph.stretch(way, ["ids", "segments", "kept"], ["0.next.x", "0.next.kept"], "", "0.")
    last = graph.stretch(way, ["0.next.x", "kept", "segments"], ["out"], "0.next.", "")
    assert [v.name for v in last.graph.inputs] == ["x", "kept", "segments"]
    chance = np.random.default_rng(0)
    given = {name: chance.standard_normal((3, 6)).astype(np.float32) for name in ("ids", "segments", "kept")}
    said = run(first, given)
    assert set(said) == {"next.x", "next.kept"} and np.array_equal(said["next.kept"], given["kept"])
    out = run(last, {"x": said["next.x"], "kept": said["next.kept"], "segments": given["segments"]})["out"]
    assert np.array_equal(out, run(way, given)["out"]), "the grid's size is asked of the segments now"


def test_a_stretch_refuses_to_begin_where_something_is_missing(way):
    with pytest.raises(ValueError, match="kept"):
        graph.stretch(way, ["0.next.x", "segments"], ["out"], "0.next.", "")


def test_what_passes_through_a_stretch_untouched_comes_out_under_its_new_name(way):
    through = graph.stretch(way, ["0.next.kept", "segments"], ["0.next.kept"], "0.next.", "0.")
    assert [v.name for v in through.graph.inputs] == ["kept", "segments"]
    kept = np.ones((2, 6), np.float32)
    assert np.array_equal(run(through, {"kept": kept, "segments": kept})["next.kept"], kept)


def run(model, given):
    """What ONNX Runtime says, by name."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))
