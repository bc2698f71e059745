"""An example feature: signing up, an audit line after the response, a durable e-mail, and a clean-up."""
