import pytest, time
@pytest.mark.parametrize("recipe", ["int8_static","qat","codebook","mixed_bits","half","weight_only","int8_dynamic"])
def test_zz(train, recipe):
    t=time.time()
    run = train(f"compression={recipe}", "model=convnet", "trainer.max_epochs=3", "data.per_class=60", "+model.hidden=32" if False else "model.hidden=32")
    print(recipe, time.time()-t, {k: round(v,4) for k,v in run.data.metrics.items() if "compress" in k or "dense" in k})
