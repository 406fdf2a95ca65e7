"""Ten-crop testing: class probabilities as the mean over ten windows of each image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.base import Model
from linft.core.forward_pass import forward_pass
from linft.core.preprocessing import Images
from linft.data.crops import ten_crops


def ten_crop_probabilities(model: Model, images: Images, batch: int = 25) -> Float[Array, "n classes"]:
    """Class probabilities of images of any size: the mean over ten crops of the softmax.

    The crops are of the short side resized to 8/7 of the input's; probabilities are averaged, not
    logits (Krizhevsky and others 2012, section 4.1).

    Args:
      model: the network, with its preprocessing.
      images: uint8 images, as `Preprocessing` takes them.
      batch: images whose crops are evaluated at once, ten for each.
    """
    height, width, _ = model.preprocessing.input_size
    logits_of = forward_pass(model.forward, "logits", model.preprocessing)

    def of_batch(part: Images) -> Array:
        crops = _ten_crops(*model.preprocessing.canvas(part, model.preprocessing.canvas_side), (height, width))
        logits = logits_of(model.params, model.batch_stats, crops.reshape(-1, *crops.shape[2:]))
        return jax.nn.softmax(logits).reshape(len(crops), 10, -1).mean(axis=1)

    return jnp.concatenate([of_batch(images[i : i + batch]) for i in range(0, len(images), batch)])


_ten_crops = jax.jit(ten_crops, static_argnums=2)
