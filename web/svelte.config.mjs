// svelte-check reads it too. Styles of components go into one file: the page's CSP allows none inside the document.
export default { compilerOptions: { css: 'external', runes: true } }
