"""The contract between gateways and workers, of every language: protos and their generated code."""

__version__ = "0.1.0"
