"""What to do about an operation that has no fixed-point form, by its name: texts that hold for every way into qfx."""

from __future__ import annotations

NO_FORM = "train the model without it, or end the model before it and compute the rest on the host"
LEAVE = "leave it out: it changes no value"
HOST = "leave it out, and take it of the result on the host"
RANDOM = "let nothing be random at inference: return the mean, say"
REAL = "qfx has real numbers alone: carry the real and the imaginary part as two values"
OF_THE_BATCH = (
    "let no constant have the batch's size: zeros beside a value are F.pad(x, ...), one number is a number, and others broadcast as buffers"
)
INDICES = "let indices be constants, as in x[:, [2, 0, 1]]: such that are computed have no fixed-point form"
JOINED = "to join values along the channels write torch.cat(values, 1), along a new axis behind the batch torch.stack(values, 1)"

TEXTS: dict[str, str] = {
    **dict.fromkeys(("msort", "nanmedian", "mode", "quantile", "nanquantile"), HOST),
    **dict.fromkeys(
        (
            *("mod", "remainder", "fmod", "floordivide", "floordiv", "atan2", "cumprod", "cummax", "cummin", "logcumsumexp", "reduceprod"),
            *("fractionalmaxpool2d", "fractionalmaxpool3d", "gridsample", "gridsampler", "affinegrid", "cdist", "byte", "char", "short"),
        ),
        NO_FORM,
    ),
    "cosinesimilarity": (
        "(a * b).sum(1, keepdim=True) / ((a * a).sum(1, keepdim=True) * (b * b).sum(1, keepdim=True)).sqrt() is the same along axis 1, where no "
        "value is all zeros"
    ),
    "cumsum": "it is a product by a constant matrix: torch.matmul(x, torch.ones(n, n).triu()) is the same along a last axis of n places",
    **dict.fromkeys(("packpaddedsequence", "padpackedsequence"), "give the model whole sequences of one length: qfx has no packed ones"),
    **dict.fromkeys(("maskedscatter",), "write torch.where(mask, value, x), with a mask that is a comparison or a constant"),
    **dict.fromkeys(("dropout3d", "alphadropout", "featurealphadropout", "featuredropout"), "use nn.Dropout or nn.Dropout2d"),
    **dict.fromkeys(
        ("maxunpool", "maxunpool1d", "maxunpool2d", "maxunpool3d"),
        "train with nn.Upsample(scale_factor=2) or nn.ConvTranspose2d, which need no indices",
    ),
    **dict.fromkeys(
        ("maxpool1dwithindices", "maxpool2dwithindices", "maxpool3dwithindices", "adaptivemaxpool2dwithindices"), "leave return_indices off"
    ),
    **dict.fromkeys(("alias", "requiresgrad", "conj", "resolveconj", "real", "positive", "pos", "checkpoint"), LEAVE),
    **dict.fromkeys(("complex", "polar", "viewascomplex", "viewasreal", "angle", "imag", "isreal"), REAL),
    **dict.fromkeys(
        (
            *(
                "fftfft",
                "fftifft",
                "fftrfft",
                "fftirfft",
                "ffthfft",
                "fftihfft",
                "fftfft2",
                "fftifft2",
                "fftrfft2",
                "fftirfft2",
                "fftfftn",
                "fftifftn",
            ),
            *("fftrfftn", "fftirfftn", "stft", "istft", "dft"),
        ),
        f"of a fixed length it is a product by constant matrices of cosines and sines, torch.matmul(x, matrix); {REAL}",
    ),
    **dict.fromkeys(
        (
            *("rand", "randn", "randint", "randperm", "randlike", "randnlike", "randintlike", "bernoulli", "gumbelsoftmax", "normal", "multinomial"),
            *("emptylike", "exponential", "uniform", "poisson", "cauchy", "geometric", "lognormal", "randomnormal", "randomnormallike"),
            *("randomuniform", "randomuniformlike"),
        ),
        RANDOM,
    ),
    **dict.fromkeys(("newempty", "zeros", "ones", "full"), OF_THE_BATCH),
    "upsamplebicubic2d": "use mode='nearest' or mode='bilinear', or a ConvTranspose, which learns what to put between the pixels",
    **dict.fromkeys(("vstack", "hstack", "dstack", "columnstack"), JOINED),
    **dict.fromkeys(
        ("gather", "gatherelements", "gathernd", "take", "takealongdim", "scatter", "scatteradd", "scatternd", "scatterelements"), INDICES
    ),
    **dict.fromkeys(
        ("quantizelinear", "dequantizelinear", "dynamicquantizelinear", "qlinearconv", "qlinearmatmul", "convinteger", "matmulinteger"),
        "give the float model: qfx does the quantizing",
    ),
    **dict.fromkeys(("loop", "if", "scan", "cond", "whileloop"), "let no decision depend on data: export the model without control flow"),
    **dict.fromkeys(
        ("nonzero", "nonmaxsuppression", "uniqueconsecutive", "unique", "roialign", "maskedselect", "bincount", "histc"),
        "end the model before it, and compute the rest on the host",
    ),
}
"""By ``key``: what holds for every way into qfx."""
