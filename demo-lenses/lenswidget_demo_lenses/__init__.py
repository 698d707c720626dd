"""Two lens files: `jacobian.safetensors` and `tuned.safetensors`, for `lenswidget.demo_model()`. No code."""
