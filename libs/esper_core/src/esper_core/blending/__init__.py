"""How a seed is blended, as data: modes, settings with their bounds, and their message. No torch in here."""

from esper_core.blending.messages import blend_from_message, blend_to_message
from esper_core.blending.spec import BlendError, BlendSpec

__all__ = ["BlendError", "BlendSpec", "blend_from_message", "blend_to_message"]
