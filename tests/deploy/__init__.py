"""What is deployed, as it is deployed: the image under Podman, and the units. `make deploy-test`."""
