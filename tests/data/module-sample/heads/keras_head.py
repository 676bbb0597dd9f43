"""A Keras model on features: the trainer trains it."""

import keras


def build(task):
    """Return a compiled model; task.parameters gives width and rate."""
    features = keras.Input(task.train.inputs.shape[1:])
    scale = keras.layers.Normalization(axis=-1)
    scale.adapt(task.train.inputs[:512])
    flat = keras.layers.Flatten()(scale(features))
    hidden = keras.layers.Dense(task.parameters["width"], activation="relu")(flat)
    output = keras.layers.Dense(len(task.class_names), activation="softmax")(hidden)
    model = keras.Model(features, output)
    optimizer = keras.optimizers.Adam(task.parameters.get("rate", 0.001))
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    print(f"a head of {task.parameters['width']} units for {len(task.class_names)} classes")
    return model
