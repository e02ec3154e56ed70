"""``Computing``: a layer whose tensors may be computed of others whenever they are read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.products.computed import Computed

_ROLES = ("weight", "bias")


class Computing(FixedLayer, abstract=True):
    """It has a ``weight``, and may have a ``bias``, that are its own or computed."""

    origins: Mapping[str, str] = MappingProxyType({})
    """What float checkpoints call ``weight`` and ``bias``, where it is not the layer's place that says it: by role, "" if they do not have it."""

    def float_names(self) -> Mapping[str, str]:
        """What a float checkpoint calls the tensors here, by their names here; "" for one that it does not have."""
        return self.origins

    def compute(self, computed: Mapping[str, Computed]) -> None:
        """From now on compute the weight or the bias, given by these names, whenever it is read."""
        for role, how in computed.items():
            delattr(self, role)
            self.add_module(f"computed_{role}", how)
        self.origins = {role: name for role, name in self.origins.items() if role not in computed}

    def compute_own(self, computed: Mapping[str, Computed]) -> None:
        """The same for a layer of torch that computes its weight or bias itself; what is not computed it keeps as a parameter of its own."""
        self.compute({role: how for role, how in computed.items() if not how.itself})
        for role in _ROLES:
            tensor = self.__dict__.get(role)
            if isinstance(tensor, Tensor):
                delattr(self, role)
                self.register_parameter(role, nn.Parameter(tensor.detach().clone()))

    def __getattr__(self, name: str) -> Any:
        if name in _ROLES:
            how = self._modules.get(f"computed_{name}")
            if how is not None:
                return how()
        return super().__getattr__(name)

    def computed(self) -> dict[str, Computed]:
        """How the weight and the bias are computed, by these names, where they are."""
        found = {role: self._modules.get(f"computed_{role}") for role in _ROLES}
        return {role: how for role, how in found.items() if isinstance(how, Computed)}

    def materialize(self, role: str) -> None:
        """Make the weight or the bias that is computed a parameter of the layer, of its present value."""
        value = self.computed()[role].parameter()
        delattr(self, f"computed_{role}")
        self.register_parameter(role, value)
