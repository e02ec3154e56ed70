"""The text of a project: C++, block design, driver. Pure and deterministic."""
