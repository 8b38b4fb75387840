// Browsers refuse workers to pages that are read from the disk, and the search runs in one. Where that is so, a hidden frame
// takes the worker's place: it loads the same script, and messages go to and from it as events.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      const give = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      const load = (source) =>
        new Promise((done, failed) => {
          const script = this.inner.document.createElement("script");
          script.src = source;
          script.onload = done;
          script.onerror = failed;
          this.inner.document.body.append(script);
        });
      this.inner.postMessage = give;
      let loading = Promise.resolve();
      this.inner.importScripts = (...sources) => {
        for (const source of sources) loading = loading.then(() => load(new URL(source, url).href));
        return loading;
      };
      load(url).then(async () => {
        await loading;
        this.ready = true;
        for (const data of this.waiting.splice(0)) this.postMessage(data);
      });
    }
    postMessage(data) {
      if (!this.ready) {
        this.waiting.push(data);
        return;
      }
      const event = new MessageEvent("message", { data });
      this.inner.dispatchEvent(event);
    }
    terminate() {}
  };
}
