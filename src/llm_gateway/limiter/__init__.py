"""Rate limits: how many requests and tokens a provider may be sent in any 60 seconds."""
