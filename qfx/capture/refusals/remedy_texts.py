"""What to do about an operation that has no fixed-point form, by its name: texts that hold for every way into qfx."""

from __future__ import annotations

TRAIN_RELU = "use ReLU, ReLU6 or a LeakyReLU with a power-of-two slope"
NO_FORM = "train the model without it, or end the model before it and compute the rest on the host"
ATTENTION = "qfx multiplies values by constants and element by element, not matrices of values: use convolutions, or keep the attention on the host"
STATE = "qfx has no state from step to step: use nn.Conv1d over the steps, or keep it outside of the model that goes to the FPGA"
NORM = "its statistics are those of the data at hand: train with nn.BatchNorm1d or nn.BatchNorm2d in its place"
COMPARE = "write a maximum as b + torch.relu(a - b), a minimum as a - torch.relu(a - b), and keep other decisions outside of the model"
THREE_AXES = "qfx works on one or two axes: make one of the three axes part of the channels, and train with the layers for two (nn.Conv2d)"
LEAVE = "leave it out: it changes no value"
PAD = "train with zero padding (nn.ZeroPad2d, padding_mode='zeros')"
CLASSES = "at the end of a model leave it out: it does not change which score is greatest (argmax)"
HOST = "leave it out, and take it of the result on the host"

TEXTS: dict[str, str] = {
    **dict.fromkeys(("softmax", "logsoftmax", "softmin", "softmax2d"), f"{CLASSES}; elsewhere use ReLU or ReLU6, and train with it"),
    **dict.fromkeys(
        ("sigmoid", "logsigmoid"),
        f"{CLASSES}, and 0 is the threshold where 0.5 was; elsewhere use ReLU or ReLU6, and train with it",
    ),
    **dict.fromkeys(
        (
            *("gelu", "silu", "swish", "elu", "celu", "selu", "tanh", "mish", "softplus", "softsign", "softshrink", "hardshrink", "tanhshrink"),
            *("hardswish", "hardsigmoid", "prelu", "rrelu", "threshold"),
        ),
        f"{TRAIN_RELU}, and train with it",
    ),
    "glu": "train without the gate, or with a ReLU6 in place of its sigmoid: a * F.relu6(b), with the halves a and b as slices of the value",
    **dict.fromkeys(("argmax", "argmin", "topk", "sort", "argsort", "kthvalue"), HOST),
    **dict.fromkeys(
        (
            *("exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "atan", "atan2", "erf", "pow"),
            *("div", "truediv", "floordiv", "mod", "remainder", "fmod", "divide", "floordivide", "truedivide", "norm", "vectornorm", "normalize"),
            *("var", "std", "varmean", "stdmean", "cosinesimilarity", "pairwisedistance", "cdist", "logsumexp", "addcdiv", "cumprod", "prod"),
            *("fftfft", "fftrfft", "round", "floor", "ceil", "trunc", "sign", "sgn", "lppool1d", "lppool2d", "fractionalmaxpool2d", "gridsample"),
            *("bilinear", "median", "nanmedian", "mode", "quantile"),
        ),
        NO_FORM,
    ),
    **dict.fromkeys(
        (
            *("layernorm", "groupnorm", "rmsnorm", "instancenorm", "instancenorm1d", "instancenorm2d", "instancenorm3d"),
            *("localresponsenorm", "crossmaplrn2d"),
        ),
        NORM,
    ),
    **dict.fromkeys(
        (
            *("scaleddotproductattention", "multiheadattention", "bmm", "baddbmm", "einsum", "tensordot", "transformer", "transformerencoder"),
            *("transformerencoderlayer", "transformerdecoder", "transformerdecoderlayer", "multiheadattentionforward", "outer"),
        ),
        ATTENTION,
    ),
    **dict.fromkeys(("lstm", "gru", "rnn", "lstmcell", "grucell", "rnncell"), STATE),
    **dict.fromkeys(("embedding", "embeddingbag", "onehot"), "look the table up on the host, and give the model the numbers that it holds"),
    **dict.fromkeys(("where", "gt", "lt", "ge", "le", "eq", "ne", "maskedfill", "heaviside", "greater", "less"), COMPARE),
    "maximum": "b + torch.relu(a - b) is the same",
    "minimum": "a - torch.relu(a - b) is the same",
    **dict.fromkeys(("neg", "negative"), "before an addition write a subtraction; elsewhere x - (x + x) is the same"),
    "subtract": "x - y is the same",
    **dict.fromkeys(
        (
            *("conv3d", "convtranspose3d", "maxpool3d", "avgpool3d", "adaptiveavgpool3d", "adaptivemaxpool3d", "batchnorm3d", "lpool3d"),
            *("zeropad3d", "constantpad3d", "reflectionpad3d", "replicationpad3d", "lppool3d"),
        ),
        THREE_AXES,
    ),
    **dict.fromkeys(("dropout3d", "alphadropout", "featurealphadropout", "featuredropout"), "use nn.Dropout or nn.Dropout2d"),
    **dict.fromkeys(
        (
            *("reflectionpad1d", "reflectionpad2d", "replicationpad1d", "replicationpad2d", "circularpad1d", "circularpad2d"),
            *("reflectionpad", "replicationpad", "circularpad"),
        ),
        PAD,
    ),
    **dict.fromkeys(
        ("maxunpool1d", "maxunpool2d", "maxunpool3d"), "train with nn.Upsample(scale_factor=2) or nn.ConvTranspose2d, which need no indices"
    ),
    **dict.fromkeys(
        (
            *("float", "double", "to", "type", "typeas", "detach", "data", "cpu", "cuda", "requiresgrad", "alias"),
            *("real", "conj", "resolveconj", "checkpoint", "positive", "pos"),
        ),
        LEAVE,
    ),
    **dict.fromkeys(("half", "bfloat16"), "leave it out: the model is float32, and its casts are qfx's"),
    **dict.fromkeys(("int", "long", "short", "char", "byte", "bool"), NO_FORM),
    **dict.fromkeys(
        ("rand", "randn", "randlike", "randnlike", "randintlike", "bernoulli", "gumbelsoftmax", "normal", "multinomial"),
        "let nothing be random at inference: return the mean, say",
    ),
    **dict.fromkeys(
        ("upsamplebilinear2d", "upsamplebicubic2d"), "use mode='nearest', or a ConvTranspose, which learns what to put between the pixels"
    ),
    **dict.fromkeys(
        ("stack", "vstack", "hstack", "dstack", "columnstack"),
        "in place of torch.stack(values).sum(0) write a + b; to join values along the channels, torch.cat(values, 1)",
    ),
    "addcmul": "x + a * b is the same",
    "lerp": "write it as a sum of products with constants: convolutions and additions",
    "cumsum": "it is a product by a constant matrix: for features nn.Linear(n, n, bias=False) with the weight torch.ones(n, n).tril()",
    **dict.fromkeys(
        (
            "layernormalization",
            "instancenormalization",
            "groupnormalization",
            "nativelayernorm",
            "nativegroupnorm",
            "lrn",
            "meanvariancenormalization",
        ),
        NORM,
    ),
    **dict.fromkeys(
        ("amax", "max", "reducemax"),
        "over pixels or time F.adaptive_max_pool2d(x, 1) and F.adaptive_max_pool1d(x, 1) are the same, of two values b + torch.relu(a - b)",
    ),
    **dict.fromkeys(("amin", "min", "reducemin"), NO_FORM),
    **dict.fromkeys(
        ("sum", "reducesum"), "over pixels F.avg_pool2d(x, size, divisor_override=1) is the same; or train with the mean, x.mean((2, 3))"
    ),
    **dict.fromkeys(
        ("pixelshuffle", "depthtospace"),
        "nn.ConvTranspose2d(n * r * r, n, r, stride=r, groups=n, bias=False) with its weight torch.eye(r * r).repeat(n, 1).reshape(-1, 1, r, r) "
        "does what nn.PixelShuffle(r) does",
    ),
    **dict.fromkeys(
        ("pixelunshuffle", "spacetodepth", "im2col", "unfold"),
        "nn.Conv2d(n, n * r * r, r, stride=r, groups=n, bias=False) with its weight torch.eye(r * r).repeat(n, 1).reshape(-1, 1, r, r) "
        "does what nn.PixelUnshuffle(r) does",
    ),
    **dict.fromkeys(
        ("flip", "roll", "index", "gather", "indexselect", "channelshuffle", "take"),
        "slices, joined by torch.cat along the channels, are the same: torch.cat([x[:, 2:], x[:, :2]], 1), say",
    ),
    **dict.fromkeys(
        ("expand", "repeat", "tile", "broadcastto", "repeatinterleave"),
        "along pixels F.interpolate(x, size=...) is the same, along the channels torch.cat([x] * n, 1)",
    ),
    **dict.fromkeys(("matmul", "mm", "attention"), ATTENTION),
    **dict.fromkeys(
        ("quantizelinear", "dequantizelinear", "dynamicquantizelinear", "qlinearconv", "qlinearmatmul", "convinteger", "matmulinteger"),
        "give the float model: qfx does the quantizing",
    ),
    **dict.fromkeys(("loop", "if", "scan", "cond", "whileloop"), "let no decision depend on data: export the model without control flow"),
    **dict.fromkeys(("nonzero", "nonmaxsuppression", "uniqueconsecutive", "roialign"), "end the model before it, and compute the rest on the host"),
}
"""By ``key``: what holds for every way into qfx."""

OF_SHAPES = frozenset(
    (
        *("max", "min", "amax", "amin", "sum", "flip", "roll", "index", "gather", "indexselect", "take", "expand", "repeat", "tile", "broadcastto"),
        *("repeatinterleave", "channelshuffle", "pixelshuffle", "pixelunshuffle", "unfold", "stack"),
    )
)
"""Operations whose place a rewritten operation before them may take, so that they are not named behind one that is refused."""
