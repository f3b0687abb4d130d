"""What `gatecrew health` prints, which `gatecrew run` reads. Apart from asking.py, which loads grpc."""

SERVING = "SERVING"
NO_HEALTH_SERVICE = "no health service"
