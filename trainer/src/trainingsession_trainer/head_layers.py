"""Which Keras layers a head may have, and why the others may not."""

from __future__ import annotations

# Layers that are nothing but arithmetic on their input.
ALLOWED_LAYERS = (
    "Activation", "ActivityRegularization", "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D",
    "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AlphaDropout", "AveragePooling1D", "AveragePooling2D",
    "BatchNormalization", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Cropping1D", "Cropping2D", "Dense",
    "DepthwiseConv1D", "DepthwiseConv2D", "Dropout", "ELU", "EinsumDense", "Flatten", "GaussianDropout",
    "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "GroupNormalization", "Identity", "LayerNormalization", "LeakyReLU", "MaxPooling1D", "MaxPooling2D", "PReLU",
    "Permute", "RMSNormalization", "ReLU", "RepeatVector", "Rescaling", "Reshape", "SeparableConv1D", "SeparableConv2D",
    "Softmax", "SpatialDropout1D", "SpatialDropout2D", "UnitNormalization", "UpSampling1D", "UpSampling2D",
    "ZeroPadding1D", "ZeroPadding2D",
    # Keras's second names of some of them.
    "AvgPool1D", "AvgPool2D", "Convolution1D", "Convolution1DTranspose", "Convolution2D", "Convolution2DTranspose",
    "GlobalAvgPool1D", "GlobalAvgPool2D", "GlobalMaxPool1D", "GlobalMaxPool2D", "MaxPool1D", "MaxPool2D",
    "SeparableConvolution1D", "SeparableConvolution2D",
)  # fmt: skip

LEFT_OUT = {
    "it runs code of its own": (
        "Lambda", "TFSMLayer", "FlaxLayer", "JaxLayer", "TorchModuleWrapper", "Layer", "Pipeline",
    ),
    "it holds another layer": ("Bidirectional", "SpectralNormalization", "TimeDistributed", "Wrapper"),
    "its random numbers, inside of its cell, would not be the same after a stop": (
        "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "SimpleRNN",
        "SimpleRNNCell", "StackedRNNCells",
    ),
    "it takes more than one input": (
        "Add", "AdditiveAttention", "Attention", "Average", "Concatenate", "Dot", "GroupQueryAttention", "Maximum",
        "Minimum", "MultiHeadAttention", "Multiply", "Subtract",
    ),
    "it takes words or categories, and features are numbers": (
        "CategoryEncoding", "Discretization", "Embedding", "HashedCrossing", "Hashing", "IntegerLookup", "Masking",
        "ReversibleEmbedding", "StringLookup", "TextVectorization",
    ),
    "it takes images or sound, and a head is given features": (
        "AugMix", "AutoContrast", "CenterCrop", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix",
        "Equalization", "MaxNumBoundingBoxes", "MelSpectrogram", "MixUp", "RandAugment", "RandomBrightness",
        "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomCrop", "RandomElasticTransform",
        "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert",
        "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness",
        "RandomShear", "RandomTranslation", "RandomZoom", "Resizing", "STFTSpectrogram", "Solarization",
    ),
    "features have at most two axes of positions": (
        "AdaptiveAveragePooling3D", "AdaptiveMaxPooling3D", "AveragePooling3D", "AvgPool3D", "Conv3D",
        "Conv3DTranspose", "Convolution3D", "Convolution3DTranspose", "Cropping3D", "GlobalAveragePooling3D",
        "GlobalAvgPool3D", "GlobalMaxPool3D", "GlobalMaxPooling3D", "MaxPool3D", "MaxPooling3D", "SpatialDropout3D",
        "UpSampling3D", "ZeroPadding3D",
    ),
    "the trainer puts it in by itself (head.standardize)": ("Normalization",),
    "it is no layer to be added": ("Input", "InputLayer", "InputSpec"),
}  # fmt: skip


def why_left_out(name: str) -> str | None:
    """Say why a layer of Keras may not be in a head; None for one that may, or that Keras does not have."""
    return next((reason for reason, names in LEFT_OUT.items() if name in names), None)
