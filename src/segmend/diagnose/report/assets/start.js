startTheme();
startCopy();
startPrint();
startContents();
startCharts();
startGallery();
startTable().then(() => {
  document.documentElement.dataset.ready = "true";
  performance.mark("segmend-ready");
});
