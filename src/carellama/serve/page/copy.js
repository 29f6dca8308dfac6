// Text that is copied from the page: character references become the signs that they stand for.
(() => {
  const plain = text => text.replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)));
  if (window.Clipboard) {
    const write = Clipboard.prototype.writeText;
    Clipboard.prototype.writeText = function (text) { return write.call(this, plain(text)); };
  }
})();
