"""Contract version 1. `from gatecrew.v1 import worker_pb2, worker_pb2_grpc`."""
