// scripts/site.py puts this before the search's worker. It reads the messages first: words that only join others are left
// out of a question, and a word that no page has is looked for in its other spelling, then without its ending.
{
  const TITLE = 5; // times a word of the text; the theme's 1,000 lets one common word in a title decide
  const ENDING = 4, STEM = 5; // letters: at most so many are cut, at least so many stay
  let known = []; // the words of all pages, each with its plain form
  const plain = (word) =>
    word
      .replace(/our/g, "or")
      .replace(/grey/g, "gray")
      .replace(/(?<=[ae]n)ce/g, "se")
      .replace(/([tb])re$/g, "$1er")
      .replace(/s/g, "z")
      .replace(/(.)\1/g, "$1");
  const found = (asked) => {
    const word = asked.replace(/(?<=[a-z]{4}[^isu])s$/, ""); // a plural: what begins so has the singular as well
    if (known.some(([other]) => other.startsWith(word))) return word;
    for (let cut = 0; cut === 0 || (cut <= ENDING && word.length - cut >= STEM); cut++) {
      const form = plain(cut ? word.slice(0, -cut) : word);
      const match = known.find(([, other]) => other.startsWith(form));
      if (match) return match[0];
    }
    return word;
  };
  const question = (text) => {
    const words = text.split(/(\s+)/);
    const matter = words.filter((word) => /\s/.test(word) || lunr.stopWordFilter(word.toLowerCase()));
    return (matter.some((word) => /\S/.test(word)) ? matter : words)
      .map((word) => word.replace(/^[a-z]{4,}$/i, (letters) => found(letters.toLowerCase())))
      .join("");
  };
  addEventListener("message", ({ data }) => {
    if (data.type === 0) {
      data.data.config.fields.title.boost = TITLE;
      const text = data.data.docs.map((doc) => `${doc.title} ${doc.text.replace(/<[^>]*>/g, " ")}`).join(" ");
      const words = new Set(text.toLowerCase().match(/[a-z]{4,}/g));
      known = [...words].sort((a, b) => a.length - b.length).map((word) => [word, plain(word)]);
    }
    if (data.type === 2) data.data = question(data.data);
  });
}
