"""The demo's side of the world: a platform with sample images, that submits them and receives webhooks."""
